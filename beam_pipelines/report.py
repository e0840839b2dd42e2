def read_funnel(r): return r
def as_text(f): return str(f)
