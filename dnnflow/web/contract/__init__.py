"""Say what the server takes and answers, as types: replies, problems, limits, the OpenAPI document."""
