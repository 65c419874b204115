"""PS3.4: verification, storage SCP and SCU."""
