"""HTTP beneath the APIs: middleware, errors, headers, request bodies and the OpenAPI document."""
