//! The slow source behind the cache: the orders of a shop in SQLite, and a report on one product.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;

use crate::AnyError;

/// So many that the queries for one report take about 1 ms.
const ORDERS: u32 = 15_000;
const LINES_PER_ORDER: u32 = 46;

const TABLES: &str = "
    CREATE TABLE orders (id INTEGER PRIMARY KEY, month INTEGER NOT NULL);
    CREATE TABLE lines (
        order_id INTEGER NOT NULL,
        product INTEGER NOT NULL,
        quantity INTEGER NOT NULL,
        cents INTEGER NOT NULL,
        PRIMARY KEY (order_id, product)
    ) WITHOUT ROWID;";

const SALES: &str = "
    SELECT month, count(*), sum(quantity), sum(quantity * cents)
    FROM lines JOIN orders ON orders.id = lines.order_id
    WHERE product = ?1 GROUP BY month ORDER BY month";

const BOUGHT_TOGETHER: &str = "
    SELECT other.product, count(*) AS orders, sum(other.quantity * other.cents)
    FROM lines AS mine JOIN lines AS other ON other.order_id = mine.order_id
    WHERE mine.product = ?1 AND other.product <> ?1
    GROUP BY other.product ORDER BY orders DESC, other.product LIMIT 10";

/// What is cached: the part of a product page that takes long to find out.
#[derive(Serialize)]
struct Report {
    product: u32,
    sales: Vec<Sales>,
    bought_together: Vec<BoughtTogether>,
}

#[derive(Serialize)]
struct Sales {
    month: u32,
    orders: u32,
    quantity: u32,
    cents: u64,
}

#[derive(Serialize)]
struct BoughtTogether {
    product: u32,
    orders: u32,
    cents: u64,
}

/// A database that all threads read, each with a connection of its own while it does.
pub(crate) struct Database {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    /// Writes a database of orders for `products`, the same every time.
    pub(crate) fn create(folder: &Path, products: u32) -> rusqlite::Result<Database> {
        let path = folder.join("orders.sqlite");
        let mut connection = Connection::open(&path)?;
        // Nobody misses this file if the power fails now.
        connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
        connection.execute_batch(TABLES)?;
        let transaction = connection.transaction()?;
        write_orders(&transaction, products)?;
        transaction.execute_batch("CREATE INDEX lines_of_product ON lines (product); ANALYZE;")?;
        transaction.commit()?;
        Ok(Database {
            path,
            idle: Mutex::default(),
        })
    }

    pub(crate) fn lines() -> u32 {
        ORDERS * LINES_PER_ORDER
    }

    /// The report on a product as JSON; `None` if nobody ever bought it.
    pub(crate) fn report(&self, product: u32) -> Result<Option<String>, AnyError> {
        let connection = self.connection()?;
        let report = Report {
            product,
            sales: sales(&connection, product)?,
            bought_together: bought_together(&connection, product)?,
        };
        self.idle.lock().push(connection);
        if report.sales.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::to_string(&report)?))
    }

    fn connection(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        // A connection belongs to one thread at a time, so SQLite needs no lock in it.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        // All connections share the pages of the file, instead of each having a cache. It never
        // changes, so that a transaction may read it for ever and need not lock it for each query.
        connection.execute_batch("PRAGMA mmap_size = 268435456; BEGIN;")?;
        Ok(connection)
    }
}

fn sales(connection: &Connection, product: u32) -> rusqlite::Result<Vec<Sales>> {
    let mut query = connection.prepare_cached(SALES)?;
    let rows = query.query_map([product], |row| {
        Ok(Sales {
            month: row.get(0)?,
            orders: row.get(1)?,
            quantity: row.get(2)?,
            cents: row.get(3)?,
        })
    })?;
    rows.collect()
}

fn bought_together(connection: &Connection, product: u32) -> rusqlite::Result<Vec<BoughtTogether>> {
    let mut query = connection.prepare_cached(BOUGHT_TOGETHER)?;
    let rows = query.query_map([product], |row| {
        Ok(BoughtTogether {
            product: row.get(0)?,
            orders: row.get(1)?,
            cents: row.get(2)?,
        })
    })?;
    rows.collect()
}

fn write_orders(connection: &Connection, products: u32) -> rusqlite::Result<()> {
    let mut order = connection.prepare("INSERT INTO orders VALUES (?1, ?2)")?;
    let mut line = connection.prepare("INSERT INTO lines VALUES (?1, ?2, ?3, ?4)")?;
    let mut dice = Dice(0);
    for id in 0..ORDERS {
        order.execute(params![id, 1 + dice.roll(12)])?;
        // People buy what goes together: a walk over neighbouring products, never one twice.
        let mut product = dice.roll(products);
        for _ in 0..LINES_PER_ORDER {
            product = (product + 1 + dice.roll(8)) % products;
            line.execute(params![
                id,
                product,
                1 + dice.roll(5),
                99 + 100 * (product % 90)
            ])?;
        }
    }
    Ok(())
}

/// Random numbers that are the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % u64::from(sides)) as u32
    }
}

/// A folder that goes when its owner does.
pub(crate) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub(crate) fn create() -> std::io::Result<TemporaryFolder> {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default();
        let (id, nanos) = (std::process::id(), now.subsec_nanos());
        let name = format!("groupcache-sync-cluster-{id}-{nanos}");
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(TemporaryFolder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cluster: cannot remove {}: {error}", self.0.display());
        }
    }
}
