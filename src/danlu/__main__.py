"""`python -m danlu`, as `torchrun -m danlu train` calls it."""

from danlu.cli.main import program

if __name__ == "__main__":
    program()
