"""A shop's catalogue, orders and carts, and what was trained from them."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _create_catalogue()
    _create_sales()
    _create_training()


def _create_catalogue() -> None:
    op.execute(
        """
        CREATE TABLE stores (
            tenant_id text NOT NULL,
            id bigint NOT NULL,
            name text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE customers (
            tenant_id text NOT NULL,
            store_id bigint NOT NULL,
            id bigint NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, store_id, id),
            FOREIGN KEY (tenant_id, store_id) REFERENCES stores (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute(
        """
        CREATE TABLE products (
            tenant_id text NOT NULL,
            store_id bigint NOT NULL,
            id bigint NOT NULL,
            name text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            deleted_at timestamptz,
            PRIMARY KEY (tenant_id, store_id, id),
            FOREIGN KEY (tenant_id, store_id) REFERENCES stores (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute(
        """
        CREATE TABLE variants (
            tenant_id text NOT NULL,
            store_id bigint NOT NULL,
            id bigint NOT NULL,
            product_id bigint NOT NULL,
            sku text NOT NULL,
            price numeric(14, 2) CHECK (price >= 0),
            stock bigint,
            deleted_at timestamptz,
            PRIMARY KEY (tenant_id, store_id, id),
            FOREIGN KEY (tenant_id, store_id, product_id) REFERENCES products (tenant_id, store_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX variants_by_product ON variants (tenant_id, store_id, product_id)")


def _create_sales() -> None:
    op.execute(
        """
        CREATE TABLE orders (
            tenant_id text NOT NULL,
            store_id bigint NOT NULL,
            id bigint NOT NULL,
            customer_id bigint,
            status text NOT NULL DEFAULT 'completed',
            ordered_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, store_id, id),
            FOREIGN KEY (tenant_id, store_id) REFERENCES stores (tenant_id, id) ON DELETE CASCADE,
            FOREIGN KEY (tenant_id, store_id, customer_id) REFERENCES customers (tenant_id, store_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX orders_by_customer ON orders (tenant_id, store_id, customer_id)")
    op.execute(
        """
        CREATE TABLE order_items (
            tenant_id text NOT NULL,
            store_id bigint NOT NULL,
            id bigint NOT NULL,
            order_id bigint NOT NULL,
            variant_id bigint NOT NULL,
            quantity integer NOT NULL CHECK (quantity > 0),
            unit_price numeric(14, 2) CHECK (unit_price >= 0),
            PRIMARY KEY (tenant_id, store_id, id),
            FOREIGN KEY (tenant_id, store_id, order_id) REFERENCES orders (tenant_id, store_id, id) ON DELETE CASCADE,
            FOREIGN KEY (tenant_id, store_id, variant_id) REFERENCES variants (tenant_id, store_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX order_items_by_order ON order_items (tenant_id, store_id, order_id)")
    op.execute("CREATE INDEX order_items_by_variant ON order_items (tenant_id, store_id, variant_id)")
    op.execute(
        """
        CREATE TABLE cart_items (
            tenant_id text NOT NULL,
            store_id bigint NOT NULL,
            id bigint NOT NULL,
            customer_id bigint NOT NULL,
            variant_id bigint NOT NULL,
            quantity integer NOT NULL DEFAULT 1 CHECK (quantity > 0),
            added_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, store_id, id),
            FOREIGN KEY (tenant_id, store_id, customer_id) REFERENCES customers (tenant_id, store_id, id) ON DELETE CASCADE,
            FOREIGN KEY (tenant_id, store_id, variant_id) REFERENCES variants (tenant_id, store_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX cart_items_by_customer ON cart_items (tenant_id, store_id, customer_id)")
    op.execute("CREATE INDEX cart_items_by_variant ON cart_items (tenant_id, store_id, variant_id)")


def _create_training() -> None:
    # No foreign key to stores: a shop may keep its data in a database of its own.
    op.execute(
        """
        CREATE TABLE ai_training_log (
            tenant_id text NOT NULL,
            id text NOT NULL,
            store_id bigint NOT NULL,
            model_type text NOT NULL CHECK (model_type IN ('recommendation', 'trending', 'next_item')),
            status text NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
            step text NOT NULL DEFAULT '',
            progress double precision NOT NULL DEFAULT 0,
            cancel_requested boolean NOT NULL DEFAULT false,
            hyper_parameters jsonb NOT NULL DEFAULT '{}',
            event_count bigint,
            metrics jsonb,
            incumbent_metrics jsonb,
            version text,
            served boolean,
            model_path text,
            message text,
            error jsonb,
            created_at timestamptz NOT NULL DEFAULT now(),
            started_at timestamptz,
            heartbeat_at timestamptz,
            ended_at timestamptz,
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    op.execute("CREATE INDEX ai_training_log_by_store ON ai_training_log (tenant_id, store_id, model_type, created_at DESC)")
    op.execute(
        """
        CREATE TABLE store_ai_status (
            tenant_id text NOT NULL,
            store_id bigint NOT NULL,
            model_type text NOT NULL CHECK (model_type IN ('recommendation', 'trending', 'next_item')),
            version text NOT NULL,
            model_path text NOT NULL,
            metrics jsonb NOT NULL,
            event_count bigint NOT NULL,
            training_id text,
            trained_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, store_id, model_type)
        )
        """
    )
