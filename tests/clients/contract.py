#!/usr/bin/env python3
"""Requests made up from the daemon's own OpenAPI document, against a running daemon.

Fails on any answer that is a server error, or that the document does not allow: a status, a header or a body that it does
not have. Good requests and bad ones, each operation by itself and several in a row.

    python3 -m venv venv && venv/bin/pip install -r tests/clients/requirements.txt
    venv/bin/python tests/clients/contract.py http://127.0.0.1:9000 100

The daemon must have limits.http_requests_per_minute = 0, else it soon refuses everything. The second argument is how many
examples each operation gets; the examples are the same each time, unless a third one is another seed. Exits with 0 if all
of them went well, else with 1 and the requests that did not.
"""

import subprocess
import sys
import tempfile

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def main():
    address, examples = sys.argv[1:3]
    seed = sys.argv[3] if len(sys.argv) > 3 else "1"
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "--no-color", "run"]
    command += [f"{address}/openapi.json", "--checks", ",".join(CHECKS), "--max-examples", examples, "--seed", seed]
    # Nothing is kept from one run to the next.
    command += ["--generation-database", "none", "--continue-on-failure", "--suppress-health-check", "all"]
    command += ["--warnings", "off"]
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(subprocess.run(command, cwd=directory).returncode)


if __name__ == "__main__":
    main()
