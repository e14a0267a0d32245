"""Quality control: names, copies, registration, strip, field of view, likeness.

measure takes the numbers of one study, judge turns them into findings, cohort does a whole cohort, page shows it;
learning and training teach the network that checker stores.
"""
