"""What several pictures of one thing are made from: cameras as maps of rays, and frames that begin as one picture."""
