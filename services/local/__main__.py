"""Entry point: `python -m services.local` runs the whole stack."""

from services.local.supervisor.start import main

if __name__ == "__main__":
    main()
