"""The operators' console: accounts, plans, invitations, usage, Groq keys, the audit log and the services' health.

- It is a listener of its own, off by default, and a gRPC caller of its own (`operator-console`). Auth and inference
  accept the RPCs behind its pages from this caller only, so a captured gateway cannot make them.
- It holds no secret of auth. Each call to auth carries the token of an operator's session, and auth checks the session,
  the role and the second factor in that call. A captured operators' console can change nothing without such a session.
- Every change is in the audit log with the operator's account.
"""
