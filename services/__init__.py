"""The four services of the Stack API, the operator's command line and the runner for one machine."""
