"""Alerts to owners: a periodic run over the keys that were used, outside the path of requests.

Auth says which gateway has the run, which alerts are wanted, and records each once; inference says which keys were used
and sends alerts to webhooks; quota says what is used of limits. The gateway only compares (decision 0046).
"""
