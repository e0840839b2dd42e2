"""A worker pool beside one TaskManager: it starts Python workers when asked to.

Beam's own `worker_pool_main` listens on every interface; this one on one address.
"""

import argparse
import logging
import time
from concurrent import futures

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="HOST:PORT to listen on")
    address = parser.parse_args().address
    logging.basicConfig(level=logging.INFO)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(
        BeamFnExternalWorkerPoolServicer(use_process=True), server
    )
    if not server.add_insecure_port(address):
        raise OSError(f"{address} is taken.")
    server.start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
