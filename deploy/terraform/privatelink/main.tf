# What AWS KMS needs to reach xksd through PrivateLink: a Network Load Balancer in two zones and an
# endpoint service with a private DNS name. README.md says what to do before and after.

data "aws_region" "current" {}

data "aws_subnet" "each" {
  count = length(var.subnet_ids)
  id    = var.subnet_ids[count.index]
}

locals {
  networks = [for subnet in data.aws_subnet.each : subnet.cidr_block]
  # Who makes the endpoints of external key stores, of any account in this region.
  kms = "cks.kms.${data.aws_region.current.name}.amazonaws.com"
}

resource "aws_security_group" "this" {
  name        = var.name
  description = "From AWS KMS to xksd"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = var.name })
}

# Traffic of PrivateLink is not asked (see aws_lb): this is for probes from the subnets.
resource "aws_vpc_security_group_ingress_rule" "xks" {
  for_each = toset(local.networks)

  security_group_id = aws_security_group.this.id
  description       = "XKS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "target" {
  for_each = {
    for pair in setproduct(var.targets, distinct([var.xks_port, var.admin_port])) :
    "${pair[0]}:${pair[1]}" => { address = pair[0], port = pair[1] }
  }

  security_group_id = aws_security_group.this.id
  description       = "xksd"
  cidr_ipv4         = "${each.value.address}/32"
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
}

resource "aws_lb" "this" {
  name               = var.name
  load_balancer_type = "network"
  internal           = true
  subnets            = var.subnet_ids
  security_groups    = [aws_security_group.this.id]
  # A zone without a healthy xksd sends to the other zone.
  enable_cross_zone_load_balancing = true
  enable_deletion_protection       = true
  # The clients are AWS KMS's endpoints, whose addresses are not known.
  enforce_security_group_inbound_rules_on_private_link_traffic = "off"
  tags                                                         = var.tags
}

resource "aws_lb_target_group" "this" {
  name        = var.name
  vpc_id      = var.vpc_id
  target_type = "ip"
  # TCP, not TLS: xksd ends TLS itself.
  protocol             = "TCP"
  port                 = var.xks_port
  proxy_protocol_v2    = var.proxy_protocol
  preserve_client_ip   = false
  deregistration_delay = var.deregistration_delay
  tags                 = var.tags

  health_check {
    protocol            = "HTTP"
    port                = var.admin_port
    path                = "/readyz"
    matcher             = "200"
    interval            = 5
    timeout             = 2
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_target_group_attachment" "this" {
  for_each = var.targets

  target_group_arn  = aws_lb_target_group.this.arn
  target_id         = each.value
  port              = var.xks_port
  availability_zone = var.targets_outside_vpc ? "all" : null
}

resource "aws_lb_listener" "this" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "TCP"
  port              = 443
  tags              = var.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

resource "aws_vpc_endpoint_service" "this" {
  network_load_balancer_arns = [aws_lb.this.arn]
  # KMS connects by itself when a key store is connected.
  acceptance_required = false
  private_dns_name    = var.private_dns_name
  tags                = merge(var.tags, { Name = var.name })
}

resource "aws_vpc_endpoint_service_allowed_principal" "kms" {
  vpc_endpoint_service_id = aws_vpc_endpoint_service.this.id
  principal_arn           = local.kms
}

resource "aws_vpc_endpoint_service_allowed_principal" "other" {
  for_each = var.allowed_principals

  vpc_endpoint_service_id = aws_vpc_endpoint_service.this.id
  principal_arn           = each.value
}

# Names without the zone's are relative to it.
resource "aws_route53_record" "verification" {
  count = var.verification_zone_id == "" ? 0 : 1

  zone_id = var.verification_zone_id
  name    = aws_vpc_endpoint_service.this.private_dns_name_configuration[0].name
  type    = aws_vpc_endpoint_service.this.private_dns_name_configuration[0].type
  records = [aws_vpc_endpoint_service.this.private_dns_name_configuration[0].value]
  ttl     = 300
}

resource "aws_vpc_endpoint_service_private_dns_verification" "this" {
  count = var.verification_zone_id == "" ? 0 : 1

  service_id            = aws_vpc_endpoint_service.this.id
  wait_for_verification = true
  depends_on            = [aws_route53_record.verification]
}
