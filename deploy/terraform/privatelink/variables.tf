variable "name" {
  description = "Name of the load balancer and of what belongs to it."
  type        = string
  default     = "xksd"

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9-]{0,25}[A-Za-z0-9]$", var.name))
    error_message = "name: 2 to 27 letters, digits and hyphens; neither begins nor ends with a hyphen."
  }
}

variable "vpc_id" {
  description = "VPC of the load balancer."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets of the load balancer, each in another zone. AWS KMS requires at least two zones."
  type        = list(string)

  validation {
    condition     = length(distinct(var.subnet_ids)) >= 2
    error_message = "subnet_ids: AWS KMS requires an endpoint service in at least two zones."
  }
}

variable "targets" {
  description = "IPv4 addresses of the xksd, in the VPC or reached from it (Direct Connect, VPN, peering)."
  type        = set(string)

  validation {
    condition     = length(var.targets) >= 1 && alltrue([for ip in var.targets : can(cidrhost("${ip}/32", 0))])
    error_message = "targets: at least one IPv4 address."
  }
}

variable "targets_outside_vpc" {
  description = "Whether the targets' addresses are not of the VPC (on-premises, a peer)."
  type        = bool
  default     = true
}

variable "xks_port" {
  description = "Port of server.listen."
  type        = number
  default     = 443
}

variable "admin_port" {
  description = "Port of admin.listen, for health checks."
  type        = number
  default     = 9180
}

variable "proxy_protocol" {
  description = "PROXY protocol version 2. Name the subnets' networks in [[server.proxy_protocol]] of xksd, first."
  type        = bool
  default     = true
}

variable "deregistration_delay" {
  description = "Seconds that connections to a target that goes may live on. Not less than server.shutdown_delay_ms."
  type        = number
  default     = 20
}

variable "private_dns_name" {
  description = "Name of the external key store proxy, which its certificate must be for: xks.example.com."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.private_dns_name))
    error_message = "private_dns_name: a name in lower case, as xks.example.com."
  }
}

variable "verification_zone_id" {
  description = "Public Route 53 zone of private_dns_name, for the record that proves that it is yours. Empty: make it by hand, from the outputs."
  type        = string
  default     = ""
}

variable "allowed_principals" {
  description = "Who may connect besides AWS KMS, to try it from another VPC. KMS is always allowed."
  type        = set(string)
  default     = []
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
