"""Prints what a URL answers, without a proxy. Usage: get.py URL"""

import sys
import urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with opener.open(sys.argv[1], timeout=2) as response:
    print(response.read().decode())
