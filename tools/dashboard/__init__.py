"""What `make dashboard` does: a real Prometheus scrapes a running stack, and every panel and alert is asked for.

The dashboard and the alerts are those of deploy/k8s/components/monitoring. A name that exists is not yet a query that
means something; a panel that draws a line under load is.
"""
