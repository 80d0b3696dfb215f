//! Events and users, as little of them as clients need.

use super::{Ref, Timestamp};

words!(LogSeverity { Normal "normal", Warning "warning", Error "error", Alert "alert" });

resource! {
    /// Its id is an integer.
    Event as "event" {
        code: u32,
        correlation_id: String,
        custom_data: String,
        custom_id: i32,
        flood_rate: u32,
        index: u32,
        origin: String,
        severity: LogSeverity,
        time: Timestamp,
        cluster: Ref,
        data_center: Ref,
        host: Ref,
        storage_domain: Ref,
        template: Ref,
        user: Ref,
        vm: Ref,
    }
}
collection!(Events as "events" of event: Event);

resource! {
    User as "user" {
        department: String,
        domain_entry_id: String,
        email: String,
        last_name: String,
        logged_in: bool,
        namespace: String,
        principal: String,
        user_name: String,
        domain: Ref,
    }
}
collection!(Users as "users" of user: User);
