"""PS3.7, sans-IO: command sets, messages, statuses, assembling and fragmenting."""
