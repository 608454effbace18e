"""What only a Colab runtime needs: its session and its Drive."""
