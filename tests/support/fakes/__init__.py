"""Stand-ins for what lies outside, made to fail on purpose."""
