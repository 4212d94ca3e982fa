"""An S3 server in this process with a public bucket named recordings, while a command runs that finds it in PATCHCORD_TEST_S3."""

import os
import subprocess
import sys
import urllib.request

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"
request = urllib.request.Request(f"{endpoint}/recordings", method="PUT", headers={"x-amz-acl": "public-read"})
urllib.request.urlopen(request, timeout=10).close()
try:
    sys.exit(subprocess.call(sys.argv[1:], env={**os.environ, "PATCHCORD_TEST_S3": endpoint}))
finally:
    server.stop()
