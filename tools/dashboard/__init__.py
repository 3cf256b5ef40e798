"""The program of `make dashboard`: a real Prometheus scrapes a running stack and evaluates every panel and alert.

The dashboard and the alerts are those of deploy/k8s/components/monitoring. Existing metric names do not make a query
useful; a panel that draws a line under load does.
"""
