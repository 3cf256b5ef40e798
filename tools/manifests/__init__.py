"""The program of `make manifests`: every rendering of deploy/k8s is checked with schemas, checkov and our own
checks.

A schema finds wrong fields and types. It finds no selector that selects nothing, no port without a listener and no
connection between services that no policy allows; `checks/` does, each check with a test that plants the defect.
"""
