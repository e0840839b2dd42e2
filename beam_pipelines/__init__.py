"""From Common Crawl to instruction data, on Apache Beam."""
