"""Signs the requests given on standard input with botocore, AWS's own signer, and prints the headers it would send.

Input: JSON, {"access_key_id", "secret_access_key", "region", "requests": [{"method", "url", "headers", "body"}]}.
Output: JSON, a list with one list of [name, value] for each request.
"""

import json
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

job = json.load(sys.stdin)
credentials = Credentials(job["access_key_id"], job["secret_access_key"])
signed = []
for request in job["requests"]:
    aws_request = AWSRequest(
        method=request["method"], url=request["url"], headers=dict(request["headers"]), data=request["body"].encode()
    )
    SigV4Auth(credentials, "kms-xks-proxy", job["region"]).add_auth(aws_request)
    signed.append([list(header) for header in aws_request.headers.items()])
json.dump(signed, sys.stdout)
