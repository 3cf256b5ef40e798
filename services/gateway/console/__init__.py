"""The web console, in which users sign up, manage API keys and see their usage.

Server-rendered HTML on the gateway's port. It calls auth's user RPCs with the session's token as the only credential.
Its reads from quota and inference are limited to the account that auth returned for that token (`clients/usage.py`).
`app.py` wraps every handler with authentication and CSRF protection.
"""
