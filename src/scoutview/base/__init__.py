"""What every room needs: errors, configuration, addressed randomness, atomic files."""
