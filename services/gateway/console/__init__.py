"""The console: pages on which a person signs up, makes keys and sees what they do.

Server-rendered HTML over the same gateway. It speaks auth's user RPCs with the session's token and nothing else; what
it reads of quota and inference is bound to the account that auth named for that token (`owner.py`). One way in for
every request: `app.py` wraps each handler so that forms carry their token and pages for owners have one.
"""
