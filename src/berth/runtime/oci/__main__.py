"""`python -m berth.runtime.oci`: what the script `berth-runtime` does, with a slower start."""

from __future__ import annotations

from berth.runtime.oci.main import main

if __name__ == "__main__":
    main()
