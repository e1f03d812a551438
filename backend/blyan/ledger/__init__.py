"""The books: accounts and balanced transfers, append-only, sealed so that anyone can recompute every balance."""
