"""HTTP code shared by the APIs: middleware, errors, headers, request bodies and the OpenAPI document."""
