"""One transfer by ovirt-imageio's own client library; prints the seconds it took.

library.py download|upload URL FILE CA WORKERS
"""

import sys
import time

from ovirt_imageio import client

action, url, path, ca, workers = sys.argv[1:]
start = time.monotonic()
if action == "download":
    client.download(url, path, ca, fmt="raw", max_workers=int(workers))
else:
    client.upload(path, url, ca, max_workers=int(workers))
print(time.monotonic() - start)
