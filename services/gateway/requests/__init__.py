"""The path of a request: authenticate, reserve, infer, settle; and its client's disconnect."""
