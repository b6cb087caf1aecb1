package trailhouse_test
import data.trailhouse

investigator := {"operation": "Read", "roles": ["Investigator"], "purpose": "fraud"}

test_investigators_see_addresses_for_fraud if {
  trailhouse.allow with input as investigator
  not trailhouse.masking_profile with input as investigator
}

test_for_another_purpose_they_do_not if {
  trailhouse.masking_profile == "no-email" with input as object_with("audit")
}

test_without_a_purpose_they_do_not if {
  trailhouse.masking_profile == "no-email" with input as {"operation": "Read", "roles": ["Investigator"]}
}

test_readers_never_do if {
  trailhouse.masking_profile == "no-email" with input as {"operation": "Read", "roles": ["Reader"], "purpose": "fraud"}
}

test_others_read_nothing if {
  not trailhouse.allow with input as {"operation": "Read", "roles": ["SreAdmin"], "purpose": "fraud"}
}

test_writers_write if trailhouse.allow with input as {"operation": "Write", "roles": [], "scopes": ["audit.write"]}

object_with(purpose) := {"operation": "Read", "roles": ["Investigator"], "purpose": purpose}
