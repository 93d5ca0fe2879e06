"""Disks that are full, read-only, or changed by somebody else while the pack writes."""
