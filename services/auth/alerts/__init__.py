"""Alerts to owners: settings, one row for each alert, and their e-mails."""
