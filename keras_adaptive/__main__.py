"""`python -m keras_adaptive`, the same as the command `keras-adaptive`."""

from keras_adaptive.cli import main

if __name__ == "__main__":
    main()
