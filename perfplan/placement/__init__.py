"""Where experts live: routing read or made up, placements found, scored and certified, replicas, pipelined layers."""
