"""The federated algorithms that a run can follow: one small file each, one registry."""
