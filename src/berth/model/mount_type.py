"""Types of mounts in a launch's spec that are not the OCI's. Imports nothing: `berth-runtime` starts anew for every step."""

# The type of a mount in a launch's spec that shows an image: `image_mount` writes it, the runtime reads it. Not of the OCI's.
IMAGE_MOUNT = "berth.image"
# The same for a filesystem that is mounted by the host's root, before the container's user namespace: it has the options
# type=, and frozen when the filesystem itself is to be read-only.
FILESYSTEM_MOUNT = "berth.filesystem"
