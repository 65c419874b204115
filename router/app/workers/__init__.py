"""Several processes, one node: who starts and watches them, and how they appear as one."""
