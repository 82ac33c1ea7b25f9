"""RadRotator: radiographs turned in three dimensions."""
