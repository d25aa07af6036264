//! One test for each model of the library.

use drivebay_loom as model;

#[test]
fn the_queue_loses_nothing_and_keeps_each_senders_order() {
    model::the_queue_loses_nothing_and_keeps_each_senders_order();
}

#[test]
fn what_is_sent_here_comes_behind_what_its_sender_sent_from_elsewhere() {
    model::what_is_sent_here_comes_behind_what_its_sender_sent_from_elsewhere();
}

#[test]
fn no_sleep_is_missed_by_a_sender() {
    model::no_sleep_is_missed_by_a_sender();
}

#[test]
fn a_message_that_meets_the_end_of_its_thread_is_taken_once() {
    model::a_message_that_meets_the_end_of_its_thread_is_taken_once();
}
