"""Measurements of the product, each a command that anybody can repeat; nothing in services/ knows them."""
