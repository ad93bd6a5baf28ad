"""What people say of photos, looked up and written down."""
