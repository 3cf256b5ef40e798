"""The second factor: codes of authenticator apps (TOTP) and recovery codes."""
