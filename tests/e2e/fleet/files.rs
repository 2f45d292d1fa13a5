//! The same fleet in front of servers that nobody here wrote: nginx with WebDAV, which stores each write as a file named by its number.

use std::{collections::HashMap, fs};

use waypost_tests::Nginx;

use super::*;

const DAV: &str = "dav_methods PUT; create_full_put_path on;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_tenants_that_are_moved_are_stored_once_each() {
    let mut cells = Vec::new();
    for _ in CELLS {
        cells.push(Nginx::start(DAV).await);
    }
    let fleet = Fleet::start(Size { tenants: 200, ..WHOLE }, [0, 1, 2].map(|cell: usize| cells[cell].address)).await;
    let mut report = Report::default();
    let writers = Writers::of(&Load { method: "PUT", path: |tenant, number| format!("/{tenant}/{number}"), ..fleet.load() });
    for round in ROUNDS {
        fleet.move_all(round, &mut report).await;
    }
    let answers = writers.stop().await;
    report.answered(&answers);
    eprintln!("{report}");
    fleet.every_tenant_was_moved_twice().await;
    let mut stored: HashMap<(String, String), usize> = HashMap::new();
    for (place, cell) in cells.iter().enumerate() {
        for tenant in fs::read_dir(cell.files()).unwrap().map(Result::unwrap) {
            for file in fs::read_dir(tenant.path()).unwrap().map(Result::unwrap) {
                let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
                let known = stored.insert((name(&tenant), name(&file)), place);
                assert_eq!(known, None, "{:?} is in two cells", file.path());
                assert_eq!(fs::read_to_string(file.path()).unwrap(), name(&file));
            }
        }
    }
    for write in &answers {
        // Written anew it would have been 204.
        assert_eq!(write.status, 201, "{write:?}");
        assert!(stored.contains_key(&(write.tenant.clone(), write.number.to_string())), "{write:?} is lost");
    }
    assert_eq!(stored.len(), answers.len());
    assert!((0..CELLS.len()).all(|cell| stored.values().any(|place| *place == cell)), "all cells were at work");
}
