"""What everything else uses: deadlines, threads, devices, breakdowns."""
