"""`python -m oauth2_m2m`, where the library is installed: the build puts this file there."""

from _oauth2_m2m.cli import main

if __name__ == "__main__":
    main()
