"""What `make manifests` does: every rendering of deploy/k8s is held to schemas, checkov and our own checks.

A schema finds wrong fields and types. It finds no selector that selects nothing, no port that nobody listens on and no
arrow between services that no policy allows; `checks/` does, each check with a test that plants the defect.
"""
