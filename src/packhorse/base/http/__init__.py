"""HTTP as packhorse speaks it: TLS, plain text on this machine only, and limits for every answer.

Called by `image.registry`; `platform.wiring` calls `pool.make_client`. `message` has the values, `client` the
rules (redirects, repetition) and no socket, `pool` the sockets, and only it and `failure` import urllib3. Not
here: what the other end means by its answers, and who one is to it (`image.registry`).
"""
