"""Storage of responses of the Responses API, if the operator has switched it on."""
