"""`python -m keras_adaptive`: the command line."""

from keras_adaptive.cli import main

if __name__ == "__main__":
    main()
